"""The commands of amnet, a file for each kind of work: they parse, call one library function, and print."""
