"""Starting things: a run on one machine, and a look at the machine itself."""
