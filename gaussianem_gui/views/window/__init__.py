"""The main window: its pages, commands, menus and dialogs."""
