"""What forms and menus say, without Qt: actions, next steps, words of the stages, checks of the values."""
