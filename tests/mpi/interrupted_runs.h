// Runs that are asked to stop after every step.
#pragma once

#include <gtest/gtest.h>

#include "base/error.h"

namespace dpldm::train {

// Collective. Calls `start(resume)` until it comes to its end, first with `resume` false. How often it stopped before;
// a failure of the test after twenty times.
template <class Start>
int stops_of(const Start& start) {
  for (int stops = 0; stops < 20; ++stops) {
    try {
      start(/*resume=*/stops > 0);
      return stops;
    } catch (const Checkpointed&) {
      continue;
    }
  }
  ADD_FAILURE() << "the run does not end";
  return 20;
}

}  // namespace dpldm::train
