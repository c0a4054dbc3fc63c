#include <array>

#include "app/cli.h"
#include "app/commands.h"

int main(int argc, char** argv) {
  using dpldm::app::Command;
  const std::array commands{
      Command{"autoencoder", "train an autoencoder on public images", dpldm::app::run_autoencoder},
      Command{"pretrain", "train a latent diffusion model on public latents", dpldm::app::run_pretrain},
      Command{"finetune", "fine-tune it on private latents under differential privacy", dpldm::app::run_finetune},
      Command{"sample", "draw synthetic images from a model", dpldm::app::run_sample},
      Command{"evaluate", "score synthetic images against a held-out real set", dpldm::app::run_evaluate},
      Command{"privacy", "epsilon, calibration, planning, ledgers", dpldm::app::run_privacy},
      Command{"audit", "try to refute the privacy claim by measurement", dpldm::app::run_audit},
      Command{"convert", "turn a checkpoint of latent-diffusion into a model directory", dpldm::app::run_convert},
      Command{"inspect", "describe a model, checkpoint or latent file", dpldm::app::run_inspect},
      Command{"probe", "run a network once on given tensors", dpldm::app::run_probe},
      Command{"report", "write a run's report.html", dpldm::app::run_report},
  };
  return dpldm::app::run_program("dpldm", "dpldm: differentially private fine-tuning of latent diffusion models",
                                 commands, argc, argv);
}
