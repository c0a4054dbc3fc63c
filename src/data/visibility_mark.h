// How a PNG says its visibility, so that what was drawn from a model that protects nobody stays marked.
#pragma once

namespace dpldm::data {

// The keyword of a text chunk whose text is "public" or "private".
inline constexpr const char* kVisibilityKeyword = "dpldm-visibility";

}  // namespace dpldm::data
