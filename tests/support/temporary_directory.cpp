#include "support/temporary_directory.h"

#include <cstdlib>
#include <string>
#include <system_error>

#include "base/error.h"

namespace dpldm::test {

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "dpldm-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw IoError("cannot make a directory like " + name);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;  // a test may have removed it
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace dpldm::test
