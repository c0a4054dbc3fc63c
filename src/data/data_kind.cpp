#include "data/data_kind.h"

#include "base/error.h"
#include "data/hdf5_file.h"

namespace dpldm::data {

DataKind kind_of(const std::filesystem::path& path) {
  const hdf5::File file = hdf5::File::open_read_only(path);
  if (!file.has_attribute("format")) {
    throw IoError(path.string() + " is an HDF5 file but not a data file of dpldm: it has no attribute 'format'");
  }
  const std::string format = file.read_text_attribute("format");
  if (format == "dpldm-images") return DataKind::kImages;
  if (format == "dpldm-latents") return DataKind::kLatents;
  throw IoError(path.string() + " has the format '" + format + "'; dpldm-images and dpldm-latents are known");
}

}  // namespace dpldm::data
