// The parts of `dpldm privacy`; each prints its answer to stdout.
#pragma once

#include "app/cli.h"

namespace dpldm::app {

// Dispatches on the word after `privacy`.
void run_privacy(Invocation& invocation);

// argv[0] is "dpldm privacy WORD", the rest are its options. They throw as documented in base/error.h.
void run_privacy_epsilon(int argc, char** argv);
void run_privacy_calibrate(int argc, char** argv);
void run_privacy_plan(int argc, char** argv);
void run_privacy_ledger(int argc, char** argv);
void run_privacy_verify(int argc, char** argv);

}  // namespace dpldm::app
