#include "base/tensors_digest.h"

#include <nlohmann/json.hpp>

namespace dpldm {

Sha256 digest_of_tensors(nlohmann::json header) {
  header.erase("__metadata__");
  const std::string text = header.dump();  // json keeps keys sorted, so the text is canonical
  Sha256 digest;
  digest.add(text.data(), text.size());
  return digest;
}

}  // namespace dpldm
