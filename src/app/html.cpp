#include "app/html.h"

#include <fmt/format.h>
#include <sodium.h>

#include "base/atomic_file.h"

namespace dpldm::app {
namespace {

constexpr std::size_t kMaxPictureBytes = std::size_t{64} << 20U;

// One column, a serif-free system face, one accent colour. Colours are variables so that the charts follow dark mode.
constexpr const char* kStyle = R"css(
:root { --paper: #fbfaf8; --ink: #21252b; --quiet: #667080; --line: #dcd9d3; --card: #ffffff; --accent: #1f6f8b; --bad: #b3261e; --bad-paper: #fbeae8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e4e6e9; --quiet: #98a2b0; --line: #30363d; --card: #1c2127; --accent: #6cc0dc; --bad: #ff8a80; --bad-paper: #3a1d1b; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; font-weight: 600; letter-spacing: -0.01em; margin: 0 0 0.2rem; }
h2 { font-size: 1.1rem; font-weight: 600; margin: 2.6rem 0 0.8rem; }
p { margin: 0.5rem 0; max-width: 44rem; }
.quiet { color: var(--quiet); }
.statement, .warning { border: 1px solid var(--line); border-left: 5px solid var(--accent); background: var(--card); border-radius: 6px; padding: 1.2rem 1.4rem; margin: 1.6rem 0; }
.warning { border-left-color: var(--bad); background: var(--bad-paper); }
.warning strong { color: var(--bad); }
.big { font-size: 1.9rem; font-weight: 600; letter-spacing: -0.01em; line-height: 1.25; font-variant-numeric: tabular-nums; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 3rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td { padding: 0.38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { color: var(--quiet); width: 17rem; padding-right: 1.5rem; }
td:last-child { overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
figure { margin: 0; }
figcaption { color: var(--quiet); font-size: 0.92rem; margin-top: 0.5rem; max-width: 44rem; }
img { display: block; width: min(100%, 44rem); height: auto; image-rendering: pixelated; border: 1px solid var(--line); border-radius: 4px; }
svg { display: block; width: 100%; max-width: 44rem; height: auto; }
svg text { fill: var(--quiet); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .dot { fill: var(--accent); }
svg .limit { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 5 4; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; overflow-x: auto; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; color: var(--accent); }
ul { padding-left: 1.2rem; max-width: 44rem; }
li { margin: 0.25rem 0; }
footer { margin-top: 3rem; color: var(--quiet); font-size: 0.88rem; }
@media (max-width: 36rem) { td, td:first-child { display: block; width: auto; border-bottom: 0; padding: 0.1rem 0; } tr { display: block; border-bottom: 1px solid var(--line); padding: 0.4rem 0; } }
@media print { body { background: none; } details { display: none; } }
)css";

}  // namespace

std::string html_escape(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string html_table(const TableRows& rows) {
  std::string table = "<table>\n";
  for (const auto& [what, value] : rows) {
    if (!value.empty())
      table += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", html_escape(what), html_escape(value));
  }
  return table + "</table>\n";
}

std::string html_picture(const std::filesystem::path& png, const std::string& alt) {
  const std::string bytes = read_file(png, kMaxPictureBytes);
  std::string base64(sodium_base64_ENCODED_LEN(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(base64.data(), base64.size(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                    sodium_base64_VARIANT_ORIGINAL);
  base64.pop_back();  // the terminating zero
  return fmt::format("<img alt=\"{}\" src=\"data:image/png;base64,{}\">\n", html_escape(alt), base64);
}

std::string html_page(const std::string& title, const std::string& body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>{}</style>\n</head>\n"
      "<body>\n<main>\n{}</main>\n</body>\n</html>\n",
      html_escape(title), kStyle, body);
}

}  // namespace dpldm::app
