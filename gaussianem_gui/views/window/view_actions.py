"""Actions of the window itself, and the icons of all actions, as tables."""

from __future__ import annotations

from dataclasses import dataclass

ICONS = {
    "run": "play",
    "submit": "queue",
    "continue": "continue",
    "abort": "stop",
    "unrequest": "x",
    "clone": "clone",
    "alias": "tag",
    "note": "note",
    "command": "copy",
    "folder": "external",
    "cleanup": "broom",
    "cleanup_harsh": "broom",
    "delete": "trash",
    "new_project": "folder-plus",
    "open_project": "folder",
    "new_job": "plus",
    "import": "job-import",
    "workflow": "graph",
    "trash": "trash",
    "empty_trash": "trash",
    "cluster": "queue",
    "repair": "settings",
    "break_lock": "lock",
    "mark_succeeded": "check-circle",
    "mark_failed": "x-circle",
    "mark_aborted": "stop-circle",
}


@dataclass(frozen=True)
class ViewAction:
    """An action of the window itself; ``handler`` is a method of the main window."""

    id: str
    text: str
    shortcut: str
    tip: str
    menu: str
    icon: str
    handler: str


VIEW_ACTIONS = (
    ViewAction(
        "palette", "Command palette …", "Ctrl+K", "Jump to any job, view or action", "View", "command", "show_palette"
    ),
    ViewAction(
        "home",
        "Project overview",
        "Alt+Home",
        "What the project holds and what comes next",
        "View",
        "home",
        "show_home",
    ),
    ViewAction(
        "compare",
        "Compare selected jobs",
        "Ctrl+Shift+D",
        "Curves and options of the selected jobs side by side",
        "View",
        "compare",
        "compare_selected",
    ),
    ViewAction(
        "explore",
        "Explore the latents",
        "Ctrl+L",
        "Plots of all particles, the molecule at a click, trajectories, selections",
        "View",
        "explore",
        "explore_current",
    ),
    ViewAction(
        "by_type",
        "Jobs by type or by time",
        "Ctrl+T",
        "Group the list by type, or show the newest first",
        "View",
        "list",
        "toggle_by_type",
    ),
    ViewAction(
        "flow",
        "List or flow of jobs",
        "Ctrl+G",
        "Show jobs as a list or as a graph of inputs and outputs",
        "View",
        "graph",
        "toggle_flow",
    ),
    ViewAction("find", "Find a job", "Ctrl+F", "Type a part of its name or state", "View", "search", "find_job"),
    ViewAction(
        "theme",
        "Dark or light",
        "Ctrl+Shift+L",
        "Switch between the dark and the light theme",
        "View",
        "sun",
        "toggle_theme",
    ),
    ViewAction(
        "reset_layout", "Reset the layout", "", "Put all panels back where they were", "View", "fit", "reset_layout"
    ),
    ViewAction(
        "settings",
        "Settings …",
        "Ctrl+,",
        "For all projects, this project, and the cluster",
        "View",
        "settings",
        "show_settings",
    ),
    ViewAction(
        "guide", "Guide", "F1", "From particles to volumes, and how the method works", "Help", "book", "show_guide"
    ),
    ViewAction(
        "leftovers",
        "Leftover processes …",
        "",
        "Processes that ended jobs have left behind, and the memory they hold",
        "Project",
        "gpu",
        "show_leftovers",
    ),
    ViewAction(
        "demo",
        "Demo project …",
        "",
        "A small dataset with known motion, to try everything",
        "Project",
        "flask",
        "make_demo",
    ),
    ViewAction(
        "close_project",
        "Close project",
        "Ctrl+W",
        "Back to the first window; jobs go on",
        "Project",
        "x",
        "close_project",
    ),
    ViewAction("quit", "Quit", "Ctrl+Q", "Close the window; jobs go on", "Project", "x", "close"),
    ViewAction(
        "about",
        "About and versions",
        "",
        "Versions and the OpenGL renderer, for a report",
        "Help",
        "info",
        "show_about",
    ),
    ViewAction(
        "save_workflow",
        "Save selected jobs as a workflow …",
        "",
        "Keep what these jobs did as a file that can be started with other data",
        "Job",
        "graph",
        "save_workflow",
    ),
)
