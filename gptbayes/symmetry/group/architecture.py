"""Which parameters write to the residual stream, and which read it, in each stage."""

from __future__ import annotations

from gptbayes.model.stages import Stage

QUERY_KEY = ("query", "key")
QUERY_KEY_VALUE = ("key", "query", "value")


def stream_writers(stage: Stage) -> tuple[tuple[str, int], ...]:
    """Parameters that write to the residual stream, each with the axis that does.

    In stages 04 to 06 attention replaces its input, and "residual stream" means that input. In
    stages 07 to 11 the values of the concatenated heads write to the residual stream too; they are
    not in the list, see `heads_write_stream`.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of (str, int)
        Name of the parameter, and the axis, counted from the end, that is a coordinate of the
        residual stream.
    """
    writers = [("token_embedding", -1)]
    if "position" in stage.features:
        writers.append(("position_embedding", -1))
    if "projection" in stage.features:
        writers += [("sa_proj_multiplier", -3), ("sa_proj_offset", -1)]
    if "wide_feed_forward" in stage.features:
        writers += [("feed_forward_proj_multiplier", -2), ("feed_forward_proj_offset", -1)]
    elif "residual" in stage.features:
        writers += [("feed_forward_multiplier", -2), ("feed_forward_offset", -1)]
    return tuple(writers)


def stream_readers(stage: Stage) -> tuple[tuple[str, int, str | None], ...]:
    """Parameters that read the residual stream.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of (str, int, str or None)
        Name of the parameter, its axis as in `stream_writers`, and the layer norm through which it
        reads, if any.
    """
    has = stage.features.__contains__
    readers = []
    if has("attention"):
        readers += [(name, -2, "ln1" if has("layer_norm") else None) for name in QUERY_KEY_VALUE]
    if has("residual"):
        norm = "ln2" if has("layer_norm") else None
        readers.append(("feed_forward_multiplier", -1, norm))
    if has("residual") or not has("attention"):
        readers.append(("lm_head_multiplier", -1, "ln_f" if has("blocks") else None))
    return tuple(readers)


def heads_write_stream(stage: Stage) -> bool:
    """Whether each head writes to its own coordinates of the residual stream: stages 07 to 11.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    bool
    """
    return "residual" in stage.features and "projection" not in stage.features


def hidden_reader(stage: Stage) -> str:
    """The parameter whose last axis reads the hidden units, in stages 06 and 08 to 12.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    str
    """
    if "wide_feed_forward" in stage.features:
        return "feed_forward_proj_multiplier"
    return "lm_head_multiplier"


def has_free_hidden_units(stage: Stage) -> bool:
    """Whether hidden units can be scaled and permuted: stages 06 and 08 to 12.

    In stage 07 hidden units are coordinates of the residual stream.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    bool
    """
    has = stage.features.__contains__
    return has("wide_feed_forward") or (has("feed_forward") and not has("residual"))


def layer_norms(stage: Stage) -> tuple[str, ...]:
    """The layer norms of a stage.

    Parameters
    ----------
    stage : Stage

    Returns
    -------
    tuple of str
        Of "ln1", "ln2" and "ln_f".
    """
    found = ("ln1", "ln2") if "layer_norm" in stage.features else ()
    return (*found, "ln_f") if "blocks" in stage.features else found
