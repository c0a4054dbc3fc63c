// The tensors of one network on disk: in one safetensors file, or in several with an index.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "io/safetensors.h"
#include "model/network.h"

namespace dpldm::model {

using Tensors = std::map<std::string, at::Tensor>;

// `<directory>/<stem>.safetensors`, or the files that `<stem>.safetensors.index.json` names; where there is neither,
// those of a variant (`<stem>.fp16.safetensors`), if there is one alone. Throws IoError.
Tensors read_weights(const std::filesystem::path& directory, const std::string& stem);

// Makes the tensors the network's parameters, in fp32, and remembers the types that they had. The network may have been
// made without values (ShapesOnly). Both must have the same names and shapes: a network with a random layer would train
// and sample without complaint. Throws IoError, with `where` in front, otherwise; before memory is taken.
void adopt(Network& network, Tensors tensors, const std::string& where);

// Writes config.json and `<stem>.safetensors` into `directory`, each atomically. Tensors whose values all fit into the
// type that their file had (Network::stored_types) are written in it.
void write_network(const Network& network, const io::NamedTensors& tensors, const std::filesystem::path& directory,
                   const std::string& stem, const std::map<std::string, std::string>& metadata = {});

// io::tensors_sha256 of the file that write_network makes.
std::string written_sha256(const Network& network, const io::NamedTensors& tensors);

}  // namespace dpldm::model
