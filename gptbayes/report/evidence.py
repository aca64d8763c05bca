"""Section "Evidence" of a fit by sequential Monte Carlo."""

from __future__ import annotations

from gptbayes import plots
from gptbayes.compare.evidence import WHY_THEY_MAY_DISAGREE
from gptbayes.compare.evidence_sensitivity import scale_sentences
from gptbayes.findings import plus_minus
from gptbayes.report.analysis import Analysis
from gptbayes.report.blocks import Heading, Paragraph, Points, Section, Table, picture


def evidence_section(analysis: Analysis) -> Section:
    """The path from the prior, the evidence with its error, and masses of modes."""
    found = analysis.tempering
    if found is None:
        raise ValueError(f"evidence is that of a fit by smc, got one by {analysis.method}")
    blocks = [
        _path_picture(found.path),
        _replicates_table(found.replicates),
        *(_evidence_blocks(found) if found.evidence is not None else ()),
        *_masses(found.masses),
        Paragraph(found.wrong_if),
    ]
    question = "How probable was the text under this model and its prior?"
    return Section("evidence", "Evidence", question, blocks)


def _path_picture(path):
    fig, axes = plots.figure(2)
    plots.plot_tempering(path, ax=axes[0])
    plots.plot_level_health(path, ax=axes[1])
    return picture(
        fig,
        name="tempering",
        alt="mean log likelihood over the likelihood weight, and what each level says of itself",
        caption="Left: mean log likelihood of the particles ± one standard deviation over the "
        "likelihood weight, 0 for the prior and 1 for the posterior; the area under each line is "
        "the log evidence of that replicate. Right, for each level: mean acceptance of NUTS, "
        "effective sample size of the weights that led there as a share of the particles, and the "
        "share of the variance of the log likelihood that is between segments, which is 0 if "
        "segments forget where they started and 1 if nothing moved.",
    )


def _replicates_table(replicates):
    rows = [
        [
            str(k + 1),
            f"{int(row['n_levels'])}",
            f"{float(row['log_evidence']):.2f}",
            f"{int(row['n_ancestors'])}",
            f"{float(row['smallest_acceptance']):.2f}",
            f"{float(row['largest_between_share']):.2f}",
            f"{float(row['seconds']):.0f}",
        ]
        for k, row in ((k, replicates.isel(chain=k)) for k in range(replicates.sizes["chain"]))
    ]
    columns = ["replicate", "levels", "log evidence", "first particles with descendants"]
    more = ["smallest acceptance", "largest share between segments", "seconds"]
    caption = (
        "The replicates, each with its own draws from the prior. The first chooses the levels."
    )
    return Table(caption, [*columns, *more], rows, "replicates")


def _evidence_blocks(found):
    of = found.evidence
    rows = [
        ["log evidence, by SMC", plus_minus(of.log_evidence, of.se, 2)],
        ["by thermodynamic integration", plus_minus(of.thermodynamic, of.thermodynamic_se, 2)],
        ["its discretisation error, estimated", f"{of.thermodynamic_discretisation:.3f}"],
        ["per character, by SMC", f"{of.log_evidence / of.n_characters:.3f}"],
        *(
            [f"counting characters, {name}", f"{float(value):.2f}"]
            for name, value in zip(
                found.counting["model"].values, found.counting["log_evidence"].values, strict=True
            )
        ),
        ["WBIC", plus_minus(of.wbic, of.wbic_se, 2)],
        [
            "learning coefficient",
            plus_minus(of.learning_coefficient, of.learning_coefficient_se, 2),
        ],
        ["singular fluctuation", f"{of.singular_fluctuation:.2f}"],
    ]
    return [
        Table(
            f"Evidence of the {of.n_characters} training characters, in nats ± standard error over "
            "replicates. Counting characters has its evidence in closed form: order 0 has one "
            "Dirichlet distribution, order 1 one after each character. WBIC approximates minus the "
            "log evidence.",
            ["what", "value"],
            rows,
            "evidence",
        ),
        Paragraph(WHY_THEY_MAY_DISAGREE),
        Heading("Sensitivity of the evidence to the prior scales"),
        Points(scale_sentences(found.sensitivity)),
    ]


def _masses(masses):
    if masses.table.sizes["mode"] < 2:
        return []
    fig, (ax,) = plots.figure(width=plots.ONE_COLUMN)
    plots.plot_mode_masses(masses.of_replicate, ax=ax)
    caption = (
        "The mass of each mode: the share of draws of each replicate (dots) and their mean (line)."
    )
    return [picture(fig, name="mode-masses", alt="masses of modes", caption=caption)]
