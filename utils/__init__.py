"""Tools of the course. Importing this package loads nothing; import the room you need: `from utils import ranks`."""
