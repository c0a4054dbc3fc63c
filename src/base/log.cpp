#include "base/log.h"

#include <string>

#include <spdlog/sinks/stdout_color_sinks.h>

namespace dpldm {

void setup_log(int rank, int num_ranks) {
  auto logger = std::make_shared<spdlog::logger>("dpldm", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  const std::string who = num_ranks > 1 && rank != 0 ? "[rank " + std::to_string(rank) + "] " : "";
  logger->set_pattern("%H:%M:%S %^%l%$ " + who + "%v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace dpldm
