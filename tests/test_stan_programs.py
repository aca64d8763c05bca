"""The Stan programs as text: they compile as they are, and neighbours differ by one component."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from difflib import SequenceMatcher, ndiff
from itertools import pairwise

import pytest

from gptbayes.model.kernel_sources import declaration, program_with_kernels
from gptbayes.model.stages import STAGES, VARIANTS, stan_folder
from gptbayes.toolchain import ensure_cmdstan

ALL = {**STAGES, **VARIANTS}
CHANGES = {  # what a stage changes beside the parameters that it adds, and how many lines at most
    "02": ("C size token_embedding stream x embed_tokens num_elements linear n_embed vocab_size "
           "lm_head_scale offset_scale", 27),
    "03": ("stream x embed_positions position position_embedding_scale block_size n_embed t", 11),
    "04": ("T size x stream attention attention_scale n_embed", 16),
    "05": ("key query value attention multi_head_attention n_head head head_size n_embed", 29),
    "06": ("stream feed_forward feed_forward_scale offset_scale n_embed", 13),
    "07": ("", 7),  # plus signs
    "08": ("linear feed_forward feed_forward_scale offset_scale n_embed", 19),
    "09": ("stream layer_norm layer_norm_scale n_embed", 24),
    "10": ("l n_layer size key stream layer_norm layer_norm_scale n_embed", 100),
    "11": ("dropout drop multi_head_attention masked_multi_head_attention l n_layer n_head n_embed "
           "block_size", 26),
    "12": ("linear attention_proj_scale offset_scale l n_layer n_embed", 15),
}  # fmt: skip
STAN_WORDS = set("""
    include stanfunctions functions data transformed parameters array matrix vector real int lower
    upper for in to_vector normal return
""".split())  # fmt: skip


def words_and_signs(program):
    """The code of a program, without comments and white space."""
    return re.findall(r"\w+|[^\w\s]", re.sub(r"//[^\n]*|/\*.*?\*/", "", program, flags=re.DOTALL))


def changed_lines(before, after):
    """The lines that one text has, and those that the other has instead."""
    lines = list(ndiff(before.split("\n"), after.split("\n")))
    return [[line[2:] for line in lines if line.startswith(f"{sign} ")] for sign in "-+"]


@pytest.fixture(params=list(pairwise(STAGES)), ids="-".join)
def neighbours(request):
    """Two stages that follow each other, and the text of their programs."""
    lower, upper = (STAGES[number] for number in request.param)
    return lower, upper, lower.program.read_text(), upper.program.read_text()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("number", ALL)
def test_a_program_needs_its_functions_and_nothing_else(number, tmp_path):
    """As a reader compiles it: with `stanc`, on the repository."""
    stanc = ensure_cmdstan() / "bin" / "stanc"
    folders = f"--include-paths={stan_folder() / 'functions'}"
    command = [stanc, folders, "--warn-pedantic", f"--o={tmp_path / 'out.hpp'}"]
    done = subprocess.run([*command, ALL[number].program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "never used" not in done.stderr


@pytest.mark.parametrize("number", ALL)
def test_arguments_are_those_of_the_table(number):
    """`gpt_logits`, `gpt_log_likelihood` and the call with kernels: names, types and order."""
    stage = ALL[number]
    expected = [f"{argument.stan_type} {argument.name}" for argument in stage.arguments]
    program = stage.program.read_text()
    (logits,) = re.findall(r"matrix gpt_logits\((.*?)\) \{", program, re.DOTALL)
    assert re.split(r",\s*(?![\],])", logits) == ["array[,] int x", *expected]
    (declared,) = re.findall(r"gpt_log_likelihood\((.*?)\);", declaration(stage), re.DOTALL)
    assert re.split(r",\s*(?![\],])", declared) == ["array[,] int y", "array[,] int x", *expected]
    parts = [text.partition("\nmodel {\n") for text in (program, program_with_kernels(stage))]
    removed, added = changed_lines(parts[0][0], parts[1][0])
    assert len(removed) == len(added) == 3  # the include, and the two ends of the call
    if all(p.prior == "normal" for p in stage.parameters):
        removed, added = changed_lines(parts[0][2], parts[1][2])
        names = [re.fullmatch(r"  (\w+) ~ independent_normal\(.*\);", each)[1] for each in added]
        assert names == [p.name for p in stage.parameters]
        assert not any("target" in line for line in removed)
    else:
        assert parts[0][2] == parts[1][2]


def test_a_program_with_other_arguments_is_refused(tmp_path):
    stage = replace(STAGES["05"], folder=tmp_path)
    text = STAGES["05"].program.read_text()
    stage.program.write_text(text.replace("key, query, value,\n", "query, key, value,\n"))
    with pytest.raises(ValueError, match=r"got 0 times: token_log_likelihood\(y, gpt_logits\(x, "):
        program_with_kernels(stage)


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("lm_head_offset ~ normal(0, offset_scale);", ""),
        ("lm_head_offset ~ normal(0, offset_scale);", "lm_head_offset ~ cauchy(0, offset_scale);"),
        ("for (v in 1:vocab_size)", "for (v in 2:vocab_size)"),
    ],
    ids=["a missing prior", "another distribution", "not of all elements"],
)
def test_a_program_with_other_priors_is_refused(code, changed, tmp_path):
    stage = replace(STAGES["05"], folder=tmp_path)
    text = STAGES["05"].program.read_text()
    assert code in text
    stage.program.write_text(text.replace(code, changed))
    with pytest.raises(ValueError, match="must have normal priors of all parameters, in order"):
        program_with_kernels(stage)


def test_neighbours_differ_by_what_the_stage_adds(neighbours):
    lower, upper, before, after = neighbours
    allowed = {*CHANGES[upper.number][0].split(), *STAN_WORDS}
    allowed |= {argument.name for argument in upper.arguments} - {
        argument.name for argument in lower.arguments
    }
    if upper.number == "10":  # every parameter of a block becomes an array
        allowed |= {p.name for p in upper.parameters if p.stan_dims[0] == "layer"}
    before, after = words_and_signs(before), words_and_signs(after)
    changed = set()
    for what, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        changed |= set() if what == "equal" else {*before[i:j], *after[k:m]}
    names = {word for word in changed if re.match(r"[A-Za-z_]", word)}
    assert names <= allowed, names - allowed
    if upper.number == "07":
        assert changed == {"+"}


def test_a_line_changes_only_if_its_code_does(neighbours):
    """No comment is the reason why a line differs from the one in the neighbouring program."""
    _, upper, before, after = neighbours
    removed, added = changed_lines(before, after)
    lost, new = ({line.split("//")[0].rstrip() for line in lines} for lines in (removed, added))
    assert not {line for line in lost & new if line.strip()}
    assert len(removed) + len(added) <= CHANGES[upper.number][1], (removed, added)
