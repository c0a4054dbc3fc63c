// Exists to build the tests' precompiled headers once.
