// Is this sample normal noise of mean 0 and the given standard deviation, with independent coordinates?
#pragma once

#include <span>
#include <string>

namespace dpldm::audit {

// Empty when the sample passes; otherwise what is wrong with it. Each check is at five standard errors (the
// Kolmogorov-Smirnov distance at the matching level), so a right sample fails about once in 10^6. `values` has at least
// 1000 entries.
std::string defects_of_noise(std::span<const float> values, double deviation);

// The correlation of two samples of one length, in standard errors: beyond 5 they are not independent.
double correlation_in_standard_errors(std::span<const float> a, std::span<const float> b);

}  // namespace dpldm::audit
