// JPEG through libjpeg(-turbo), whose errors are long jumps: kept apart from everything that has destructors.
#pragma once

#include <string>
#include <string_view>

#include "io/image_codec.h"

namespace dpldm::io {

Image decode_jpeg(std::string_view file_content, const std::string& name);

}  // namespace dpldm::io
