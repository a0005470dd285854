"""The jobs of a project, new ones, and the parts of the one shown, as entries of the command palette."""

from __future__ import annotations

from functools import partial

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.forms.next_steps import picture, purpose
from gaussianem_gui.views.job.job_pane import TABS
from gaussianem_gui.views.project_model import job_label, state_word
from gaussianem_gui.views.toolkit.palette_entry import PaletteEntry
from gaussianem_gui.views.toolkit.theme import STATES
from gaussianem_gui.views.window.context import WindowContext
from gaussianem_gui.views.window.pages import Pages


def job_entries(context: WindowContext, pages: Pages) -> list[PaletteEntry]:
    """An entry for each job, the newest first, each type of a new one, and each tab of the job shown; none without a
    project."""
    if context.model is None:
        return []
    found: list[PaletteEntry] = []
    for info in reversed(context.model.jobs):
        detail = f"{info.title} · {STATES[state_word(info)][2]}"
        run = partial(pages.open_job, info.name)
        found.append(PaletteEntry(job_label(info), detail, picture(info.job_type), run))
    for job_type, options in JOB_OPTIONS.items():
        title, icon = f"New {options.title} job", picture(job_type)
        found.append(PaletteEntry(title, purpose(job_type), icon, partial(pages.new_job, job_type)))
    if context.job_shown():
        job, show = context.pane.title.text(), context.pane.show_tab
        found += [PaletteEntry(f"Show {tab}", job, "chevron-right", partial(show, tab)) for tab in TABS]
    return found
