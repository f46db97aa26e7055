"""Speed checks; never part of the test suite, because wall clocks on shared machines are noise."""
