// What sizes in a file's header can be believed before memory is taken for them.
#pragma once

namespace dpldm::data {

// Deflate cannot shrink by more than about 1032: a header that promises more than this times what is stored lies.
inline constexpr double kMostDeflateRatio = 1100;

}  // namespace dpldm::data
