"""The report of a reconstruction in Markdown, from the figures of results.json."""

from __future__ import annotations

from typing import Any

STATE_WORDS = (
    "Half maps, FSC and `map.mrc` are of the width by which each half set predicts the other best. `map_state.mrc` "
    "takes each region and band of frequencies from as many particles as the half sets agree on there: what does not "
    "move keeps the resolution of all. Its weights follow from both half sets, so that it has no FSC of its own."
)
TABLE_SHELLS = 12
"""Shells of the report's table; results.json has them all."""


def report(entry: dict[str, Any], words: str) -> str:
    """Text of report.md of a map. ``entry``: as in results.json; ``words``: the sentence of `map_results.in_words`."""
    particles = entry["particles"]
    tilts = f" in {particles['images']:,} tilt images" if "images" in particles else ""
    lines = [
        "# Reconstruction",
        "",
        f"{words[0].upper()}{words[1:]}.",
        "",
        f"{particles['used']:,} particles{tilts} ({particles['half_1']:,} and {particles['half_2']:,} in the half sets"
        + (f"; weighted, they count as {particles['effective']:,.0f}" if weighted(particles) else "")
        + f"), symmetry {entry['symmetry']}, box {entry['box']}, {entry['pixel_size_angstrom']:.4g} Å/px.",
        "",
        *(state_lines(entry) if "state" in entry else []),
        *(motion_lines(entry) if "motion_undone" in entry else []),
        "| file | what it is |",
        "|---|---|",
        "| `map.mrc` | map of all particles, weighted by FSC, sharpened, cut at its resolution |",
        "| `half_map_1.mrc`, `half_map_2.mrc` | maps of the half sets: no mask, no filter, not sharpened |",
        "| `map_unsharpened.mrc` | map of all particles, treated as the half maps |",
        f"| `mask.mrc` | soft mask of the molecule, {'made from the map' if entry['mask_made'] else 'as given'} |",
    ]
    if "local_resolution_angstrom" in entry:
        lines += [
            "| `local_resolution.mrc` | local resolution in Å |",
            "| `map_local.mrc` | map of all particles, sharpened, filtered by its local resolution |",
        ]
    lines += ["", *fsc_table(entry), "", *notes(entry)]
    return "\n".join(lines) + "\n"


def states_report(entries: list[dict[str, Any]]) -> str:
    """Text of report.md of several states: a row for each."""
    lines = [
        "# Reconstructions of states",
        "",
        "| state | particles | resolution (Å) | without mask (Å) | FSC 0.5 with the decoded volume (Å) |",
        "|---|---|---|---|---|",
    ]
    for number, entry in enumerate(entries, start=1):
        decoded = entry.get("decoded", {}).get("resolution_half_angstrom")
        lines.append(
            f"| {number} | {entry['state']['chosen_particles']:,} | {entry['resolution_angstrom']:.2f} "
            f"| {entry['resolution_unmasked_angstrom']:.2f} | {'' if decoded is None else f'{decoded:.2f}'} |"
        )
    lines += ["", STATE_WORDS, ""]
    return "\n".join(lines) + "\n"


def state_lines(entry: dict[str, Any]) -> list[str]:
    """Lines on the particles and widths of a state's map."""
    state = entry["state"]
    widths = ", ".join(f"{count:,}" for count in state["widths_particles"])
    effective = state["effective_particles_by_band"]
    lines = [
        f"The map of a state, of the {state['chosen_particles']:,} particles nearest to it in latent space "
        f"(expected distance under each one's posterior). Widths tried: {widths} particles."
    ]
    if len(state["widths_particles"]) > 1:
        lines.append(
            f"{STATE_WORDS} It stands on {max(effective):,.0f} particles in coarse shells at most and "
            f"{min(effective):,.0f} at least (effective number, by band)."
        )
    if entry.get("decoded"):
        lines.append(
            f"FSC with the decoded volume within the mask: 0.5 at {entry['decoded']['resolution_half_angstrom']:.2f} "
            "Å. The network saw the same images: agreement shows that the volume is in the data, not that the latents "
            "are."
        )
    return [line for pair in ((line, "") for line in lines) for line in pair]


def motion_lines(entry: dict[str, Any]) -> list[str]:
    """Lines on the motion that was undone, and on the independence of the half maps."""
    undone = entry["motion_undone"]
    return [
        f"Motion undone: {undone['parts']} parts of the molecule, each brought to one state by its own rigid motion, "
        f"to {undone['misfit_pixels']:.2f} px of the training's box.",
        "",
        "The motion of each half set is told by a network that saw no other particles; the cut into parts is that of "
        "the network of all."
        if undone["half_sets_independent"]
        else "**The half maps are not independent: one network, trained on all particles, tells the motion of both "
        "half sets. Their FSC may be too good.**",
        "",
    ]


def weighted(particles: dict[str, Any]) -> bool:
    """Whether the particles have different weights."""
    broken = 0 if "images" in particles else particles["broken"]
    return bool(particles["effective"] < particles["used"] + broken - 0.5)


def fsc_table(entry: dict[str, Any]) -> list[str]:
    """FSC by shell, as a table."""
    frequency = entry["fsc"]["frequency_per_angstrom"]
    last = len(frequency) - 1
    chosen = sorted({max(1, round(last * i / TABLE_SHELLS)) for i in range(1, TABLE_SHELLS + 1)})
    lines = ["| resolution (Å) | without mask | masked | random phases | corrected |", "|---|---|---|---|---|"]
    for i in chosen:
        values = " | ".join(
            f"{entry['fsc'][name][i]:.3f}" for name in ("unmasked", "masked", "randomised", "corrected")
        )
        lines.append(f"| {1 / frequency[i]:.2f} | {values} |")
    return lines


def notes(entry: dict[str, Any]) -> list[str]:
    """Lines on how the figures are defined, and warnings where they call for one."""
    lines = [
        "The corrected curve is (T - N) / (1 - N): T is the masked FSC, N the masked FSC of maps whose phases are "
        f"random beyond {entry['randomised_from_angstrom']:.1f} Å (Chen et al. 2013). The resolution is where it falls "
        "to 0.143."
    ]
    noise = max(entry["fsc"]["randomised"][-(len(entry["fsc"]["randomised"]) // 4) :])
    if noise > 0.1:
        lines.append(
            f"**The mask alone makes an FSC of up to {noise:.2f} in the finest shells: it is too tight or its edge too "
            "steep. Widen it.**"
        )
    if entry["at_nyquist"]:
        lines.append(
            "The FSC does not fall to 0.143 before Nyquist: reconstruct at a finer pixel size if there is one."
        )
    if "local_resolution_angstrom" in entry:
        window = entry["local_resolution_angstrom"]["window_angstrom"]
        lines.append(
            f"Local resolution is where the half maps' correlation within a Gaussian window of {window:.0f} Å (full "
            "width at half maximum) falls to 0.143; it is no finer in place than this window."
        )
    return [line for pair in ((line, "") for line in lines) for line in pair]
