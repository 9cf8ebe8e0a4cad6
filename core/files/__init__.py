"""Files that somebody else wrote, read so that nothing is lost; files of ours, written whole."""
