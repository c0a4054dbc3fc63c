// What this program uses of LibTorch: tensors, autograd, and the module that networks derive from.
//
// <torch/torch.h> has every layer, data loader and optimiser as well, whose templates cost each file that includes it,
// precompiled or not, another five seconds.
#pragma once

#include <torch/autograd.h>
#include <torch/cuda.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>
