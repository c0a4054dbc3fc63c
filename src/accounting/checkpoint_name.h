// What the checkpoints of a run are called: "step-00000123" when it is whole; while one is written, replaced or
// removed, something follows the number.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dpldm::accounting {

struct CheckpointName {
  std::int64_t step = 0;
  std::string suffix;  // what follows the number; empty for a checkpoint that is whole
};

// None for a name of another form: with too few digits, needless zeros, or more than a step can have. So `to_text`
// gives the same name again.
std::optional<CheckpointName> checkpoint_name_from(const std::string& name);

std::string to_text(const CheckpointName& name);

}  // namespace dpldm::accounting
