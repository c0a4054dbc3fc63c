// Whether products are computed in the precision that the clip relies on.
#pragma once

namespace dpldm::train {

// A clip holds because norms and sums are fp32 products with a known rounding error. TF32 and bf16 products, which some
// libraries use in place of fp32 ones when an environment variable says so, have a hundred times that error, and
// nothing would show it. Throws ConfigError, naming the variable, when one of these is set; and tells LibTorch to use
// full precision.
void require_full_precision_products();

}  // namespace dpldm::train
