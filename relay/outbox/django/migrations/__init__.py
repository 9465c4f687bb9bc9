"""Setup for Django: one migration, which applies whatever the installed version has."""
