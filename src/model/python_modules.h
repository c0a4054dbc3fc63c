// Python that is written into model directories: what diffusers needs to load and sample models that none of its own
// classes describes. diffusers runs such files only when its caller says trust_remote_code=True.
#pragma once

#include <string_view>

namespace dpldm::model {

// src/model/python/dpldm_unet.py and dpldm_pipeline.py.
extern const std::string_view kUNetModule;
extern const std::string_view kPipelineModule;

}  // namespace dpldm::model
