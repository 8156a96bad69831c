"""Formats of data files, one file for each: from bytes of anyone to records with the columns that are needed, within bounds."""
