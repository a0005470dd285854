"""Actions of the window itself, as a table; the main window gives each its callback."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewAction:
    """An action of the window. ``parted``: a line stands above it in the menu. ``always``: possible without a
    project."""

    id: str
    text: str
    shortcut: str
    tip: str
    menu: str
    icon: str
    parted: bool = False
    always: bool = False


VIEW_ACTIONS = (
    ViewAction(
        "palette", "Command palette …", "Ctrl+K", "Jump to any job, view or action", "View", "command", always=True
    ),
    ViewAction("home", "Project overview", "Alt+Home", "What the project holds and what comes next", "View", "home"),
    ViewAction(
        "compare",
        "Compare selected jobs",
        "Ctrl+Shift+D",
        "Curves and options of the selected jobs side by side",
        "View",
        "compare",
    ),
    ViewAction(
        "explore",
        "Explore the latents",
        "Ctrl+L",
        "Plots of all particles, the molecule at a click, trajectories, selections",
        "View",
        "explore",
    ),
    ViewAction(
        "by_type",
        "Jobs by type or by time",
        "Ctrl+T",
        "Group the list by type, or show the newest first",
        "View",
        "list",
    ),
    ViewAction(
        "flow",
        "List or flow of jobs",
        "Ctrl+G",
        "Show jobs as a list or as a graph of inputs and outputs",
        "View",
        "graph",
    ),
    ViewAction(
        "flow_page",
        "Flow of jobs as a page",
        "Ctrl+Shift+G",
        "The graph of inputs and outputs with room and zoom",
        "View",
        "graph",
    ),
    ViewAction("find", "Find a job", "Ctrl+F", "Type a part of its name or state", "View", "search"),
    ViewAction(
        "theme",
        "Dark or light",
        "Ctrl+Shift+L",
        "Switch between the dark and the light theme",
        "View",
        "sun",
        always=True,
    ),
    ViewAction(
        "reset_layout",
        "Reset the layout",
        "",
        "Put all panels back where they were",
        "View",
        "fit",
        parted=True,
        always=True,
    ),
    ViewAction(
        "settings",
        "Settings …",
        "Ctrl+,",
        "For all projects, this project, and the cluster",
        "View",
        "settings",
        always=True,
    ),
    ViewAction(
        "guide", "Guide", "F1", "From particles to volumes, and how the method works", "Help", "book", always=True
    ),
    ViewAction(
        "leftovers",
        "Leftover processes …",
        "",
        "Processes that ended jobs have left behind, and the memory they hold",
        "Project",
        "gpu",
    ),
    ViewAction(
        "demo",
        "Demo project …",
        "",
        "A small dataset with known motion, to try everything",
        "Project",
        "flask",
        parted=True,
        always=True,
    ),
    ViewAction(
        "close_project", "Close project", "Ctrl+W", "Back to the first window; jobs go on", "Project", "x", parted=True
    ),
    ViewAction("quit", "Quit", "Ctrl+Q", "Close the window; jobs go on", "Project", "x", always=True),
    ViewAction(
        "about",
        "About and versions",
        "",
        "Versions and the OpenGL renderer, for a report",
        "Help",
        "info",
        parted=True,
        always=True,
    ),
    ViewAction(
        "save_workflow",
        "Save selected jobs as a workflow …",
        "",
        "Keep what these jobs did as a file that can be started with other data",
        "Job",
        "graph",
        parted=True,
    ),
)
