"""From a study's folder to verdicts, tables and figures."""
