// As support/precompiled.h, for tests that use LibTorch.
#pragma once

#include "base/torch.h"
#include "support/precompiled.h"
