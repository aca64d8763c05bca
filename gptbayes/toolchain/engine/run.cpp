#include "run.hpp"

#include <stan/version.hpp>

#include <cstdlib>
#include <ctime>
#include <stdexcept>

namespace engine {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", std::gmtime(&now));
  return text;
}

/** `stanc_version = stanc3 v2.35.0` -> its two sides. */
std::pair<std::string, std::string> sides(const std::string& line) {
  const size_t equals = line.find(" = ");
  return {line.substr(0, equals), equals == std::string::npos ? "" : line.substr(equals + 3)};
}

const Argument& chosen_method(const Argument& arguments) {
  return arguments.at("method/" + arguments.choice("method"));
}

}  // namespace

Run::Run(Model& model, const Argument& arguments, stan::callbacks::logger& logger)
    : model(model), arguments(arguments), method(chosen_method(arguments)), logger(logger) {
  seed = static_cast<unsigned int>(
      std::get<long long>(arguments.at("random/seed").value));
  id = arguments.integer("id");
  refresh = arguments.integer("output/refresh");
  const std::string init = arguments.text("init");
  char* end = nullptr;
  const double number = std::strtod(init.c_str(), &end);
  if (!init.empty() && *end == '\0') {
    init_radius = number;
  }
}

int Run::chains() const {
  const bool several = method.name == "sample" || method.name == "generate_quantities";
  return several ? method.integer("num_chains") : 1;
}

Contexts Run::inits(int count) const {
  const std::string init = arguments.text("init");
  char* end = nullptr;
  std::strtod(init.c_str(), &end);
  return read_each(read_variables, *end == '\0' ? "" : init, count, static_cast<int>(id));
}

void Run::describe(std::ostream& out) const {
  out << "# stan_version_major = " << stan::MAJOR_VERSION << "\n"
      << "# stan_version_minor = " << stan::MINOR_VERSION << "\n"
      << "# stan_version_patch = " << stan::PATCH_VERSION << "\n"
      << "# model = " << model.model_name() << "\n"
      << "# start_datetime = " << utc_now() << "\n";
  for (const Argument& argument : arguments.children) {
    argument.print(out, "# ");
  }
  for (const std::string& line : model.model_compile_info()) {
    out << "# " << line << "\n";
  }
  out << std::flush;
}

CsvWriter Run::csv(const std::string& path) const {
  auto file = open_output(path, sig_figs());
  describe(*file);
  return CsvWriter(std::move(file), "# ");
}

JsonWriter Run::json(const std::string& path) const {
  return path.empty() ? JsonWriter() : JsonWriter(open_output(path, sig_figs()));
}

void Run::open_outputs() {
  const int count = chains();
  for (const std::string& path :
       numbered(output_file(), "", ".csv", count, static_cast<int>(id))) {
    output.push_back(csv(path));
  }
  const std::string diagnostic_file = arguments.text("output/diagnostic_file");
  const bool as_json = method.name == "pathfinder" || method.name == "laplace";
  for (const std::string& path :
       numbered(diagnostic_file, "", ".csv", count, static_cast<int>(id))) {
    diagnostics.push_back(diagnostic_file.empty() || as_json ? CsvWriter(nullptr, "# ")
                                                             : csv(path));
  }
}

void Run::write_config() const {
  auto out = open_output(stem(output_file()) + "_config.json", sig_figs());
  *out << "{\n"
       << "  \"stan_major_version\" : " << quoted(stan::MAJOR_VERSION) << ",\n"
       << "  \"stan_minor_version\" : " << quoted(stan::MINOR_VERSION) << ",\n"
       << "  \"stan_patch_version\" : " << quoted(stan::PATCH_VERSION) << ",\n"
       << "  \"model_name\" : " << quoted(model.model_name()) << ",\n"
       << "  \"start_datetime\" : " << quoted(utc_now()) << ",\n";
  for (const Argument& argument : arguments.children) {
    argument.print_json(*out, 1);
    *out << ",\n";
  }
  *out << "  \"mpi_enabled\" : false";
  for (const std::string& line : model.model_compile_info()) {
    const auto [name, text] = sides(line);
    *out << ",\n  " << quoted(name) << " : " << quoted(text);
  }
  *out << "\n}\n";
}

void Run::check_outputs() {
  for (CsvWriter& writer : output) {
    RowFile& file = writer.get_stream();
    if (!file.flush()) {
      throw std::runtime_error("Error writing \"" + file.path() + "\": is the disk full?");
    }
  }
}

}  // namespace engine
