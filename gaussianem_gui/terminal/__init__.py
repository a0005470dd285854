"""Projects and jobs in a terminal: ``gaussianem project`` and ``gaussianem job``."""
