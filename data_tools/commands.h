// The subcommands of dpldm-data, one file each.
#pragma once

#include "app/cli.h"

namespace dpldm::tools {

void run_import(app::Invocation& invocation);
void run_render(app::Invocation& invocation);
// Collective: every rank of the job runs it.
void run_encode(app::Invocation& invocation);
void run_inspect(app::Invocation& invocation);
void run_verify(app::Invocation& invocation);

}  // namespace dpldm::tools
