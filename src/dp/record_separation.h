// Whether a network keeps records apart, found by trying before any private record is read.
//
// The per-record rules hold if every trained layer is used exactly once in a pass, and if what it reports for a record
// depends on that record alone. Batch norm, a parameter that two layers share, or attention over the batch would break
// that, and with it the bound on one record's contribution, without any error. So made-up records pass twice, the
// second time beside other neighbours: what is reported for the first record must be the same to the last bit.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/gradient_tap.h"

namespace dpldm::dp {

// `pass(tap, neighbours)` runs forward and backward over two or more made-up records of one row each, with the trained
// layers reporting to `tap`; the first record is the same in every call, the others differ with `neighbours`.
// `layers`: the names of the trained layers. Throws ConfigError that names the layer which is used twice, takes no part
// in the loss, or sees other records.
void require_separate_records(const std::vector<std::string>& layers,
                              const std::function<void(model::GradientTap& tap, int neighbours)>& pass);

}  // namespace dpldm::dp
