"""A study's file, validated."""
