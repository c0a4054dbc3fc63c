// `dpldm audit` around a mechanism that loses its noise on more than one rank (support/quiet_mechanism.cpp).
#include <array>

#include "app/cli.h"
#include "app/commands.h"

int main(int argc, char** argv) {
  const std::array commands{dpldm::app::Command{"audit", "of a broken mechanism", dpldm::app::run_audit}};
  return dpldm::app::run_program("dpldm-quiet", "dpldm audit with a mechanism that loses its noise", commands, argc,
                                 argv);
}
