// The subcommands of `dpldm`, one file each.
#pragma once

#include "app/cli.h"

namespace dpldm::app {

void run_autoencoder(Invocation& invocation);
void run_pretrain(Invocation& invocation);
void run_finetune(Invocation& invocation);
void run_sample(Invocation& invocation);
void run_evaluate(Invocation& invocation);
void run_privacy(Invocation& invocation);
void run_convert(Invocation& invocation);
void run_inspect(Invocation& invocation);
void run_probe(Invocation& invocation);
void run_report(Invocation& invocation);
void run_audit(Invocation& invocation);

}  // namespace dpldm::app
