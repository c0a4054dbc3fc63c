// Exists to build the precompiled header of LibTorch once for all targets.
