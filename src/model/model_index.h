// model_index.json: what a pipeline directory says of its components, and the pipeline of diffusers that fits them.
#pragma once

#include <filesystem>
#include <string>

namespace dpldm::model {

inline constexpr const char* kConfigName = "config.json";  // of each component
inline constexpr const char* kIndexName = "model_index.json";

// "UNet2DModel": the class that the config.json of a network's own directory names; empty where it names none.
std::string network_class(const std::filesystem::path& directory);

// Compares the index, where there is one, with a component that is there. diffusers would not load one that the index
// leaves out, and would load the index's class with another class's configuration. Throws ConfigError where they
// differ.
void require_index_agrees(const std::filesystem::path& model, const std::string& component);

// model_index.json for the components that are present, by the classes that their config.json files name. Beside it go
// the Python files that this program's own classes need.
void write_model_index(const std::filesystem::path& model);

}  // namespace dpldm::model
