#include "files.hpp"

#include <stan/io/dump.hpp>
#include <stan/io/empty_var_context.hpp>
#include <stan/io/json/json_data.hpp>

#include <rapidjson/istreamwrapper.h>
#include <rapidjson/reader.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <stdexcept>

namespace engine {
namespace {

std::ifstream open_input(const std::string& path) {
  std::ifstream in(path);
  if (!in) {
    throw std::invalid_argument("Can't open specified file, \"" + path + "\"");
  }
  return in;
}

bool exists(const std::string& path) { return std::ifstream(path).good(); }

std::vector<std::string> split(const std::string& line, char separator) {
  std::vector<std::string> fields;
  std::istringstream in(line);
  for (std::string field; std::getline(in, field, separator);) {
    fields.push_back(field);
  }
  return fields;
}

std::vector<double> read_row(const std::string& line, const std::string& path) {
  std::vector<double> row;
  for (const char* cursor = line.c_str(); *cursor != '\0';) {
    char* end = nullptr;
    row.push_back(std::strtod(cursor, &end));
    if (end == cursor || (*end != ',' && *end != '\0' && *end != '\r')) {
      throw std::invalid_argument("Error parsing CSV file \"" + path + "\", bad value in row \""
                                  + line.substr(0, 60) + "\"");
    }
    cursor = *end == ',' ? end + 1 : end + std::strlen(end);
  }
  return row;
}

/**
 * Passes the events of a JSON reader to a JSON writer, except for the members of the outermost
 * object whose value is a string. (A rapidjson::Document would be shorter to use, but the
 * document.h of Stan's RapidJSON assigns to a constant, which GCC 14 refuses to compile.)
 */
class WithoutStrings {
 public:
  // NaN and infinities are written as Stan reads them.
  using Writer
      = rapidjson::Writer<rapidjson::StringBuffer, rapidjson::UTF8<>, rapidjson::UTF8<>,
                          rapidjson::CrtAllocator, rapidjson::kWriteNanAndInfFlag>;

  explicit WithoutStrings(Writer& writer) : writer_(writer) {}

  bool Null() { return value().Null(); }
  bool Bool(bool x) { return value().Bool(x); }
  bool Int(int x) { return value().Int(x); }
  bool Uint(unsigned x) { return value().Uint(x); }
  bool Int64(int64_t x) { return value().Int64(x); }
  bool Uint64(uint64_t x) { return value().Uint64(x); }
  bool Double(double x) { return value().Double(x); }
  bool RawNumber(const char*, rapidjson::SizeType, bool) { return false; }  // not asked for
  bool String(const char* text, rapidjson::SizeType length, bool) {
    if (depth_ == 1 && has_key_) {
      has_key_ = false;
      return true;
    }
    return value().String(text, length);
  }
  bool Key(const char* text, rapidjson::SizeType length, bool) {
    key_.assign(text, length);
    has_key_ = true;
    return true;
  }
  bool StartObject() {
    ++depth_;
    return value().StartObject();
  }
  bool EndObject(rapidjson::SizeType) {
    --depth_;
    return writer_.EndObject();
  }
  bool StartArray() { return value().StartArray(); }
  bool EndArray(rapidjson::SizeType) { return writer_.EndArray(); }

 private:
  /** Where the next value is written, behind its key if it has one. */
  Writer& value() {
    if (has_key_) {
      writer_.Key(key_.c_str(), static_cast<rapidjson::SizeType>(key_.size()));
      has_key_ = false;
    }
    return writer_;
  }

  Writer& writer_;
  std::string key_;
  bool has_key_ = false;
  int depth_ = 0;
};

}  // namespace

RowFile::RowFile(const std::string& path, int sig_figs) : path_(path), buffer_(1 << 20) {
  rdbuf()->pubsetbuf(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
  open(path);
  if (!*this) {
    throw std::invalid_argument("Can't open output file \"" + path
                                + "\": " + std::strerror(errno));
  }
  if (sig_figs > -1) {
    precision(sig_figs);
  }
}

RowFile::~RowFile() { close(); }  // while the buffer is there

std::unique_ptr<RowFile> open_output(const std::string& path, int sig_figs) {
  return std::make_unique<RowFile>(path, sig_figs);
}

std::string extension(const std::string& path) {
  const size_t dot = path.find_last_of('.');
  const size_t slash = path.find_last_of('/');
  const bool none = dot == std::string::npos || (slash != std::string::npos && dot < slash);
  return none ? "" : path.substr(dot);
}

std::string stem(const std::string& path) {
  return path.substr(0, path.size() - extension(path).size());
}

std::vector<std::string> numbered(const std::string& path, const std::string& tag,
                                  const std::string& default_extension, int count, int first) {
  const bool is_device = path.rfind("/dev/", 0) == 0;
  std::string end = extension(path);
  if (end.empty() && !is_device) {
    end = default_extension;
  }
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    const std::string number = count == 1 ? "" : "_" + std::to_string(first + i);
    names.push_back(is_device ? path : stem(path) + tag + number + end);
  }
  return names;
}

Context read_variables(const std::string& path) {
  if (path.empty()) {
    return std::make_shared<stan::io::empty_var_context>();
  }
  std::ifstream in = open_input(path);
  if (extension(path) == ".json") {
    return std::make_shared<stan::json::json_data>(in);
  }
  std::cerr << "Warning: file '" << path << "' is read as R dump, a deprecated format.\n"
            << "\tConsider saving your data as JSON instead." << std::endl;
  return std::make_shared<stan::io::dump>(in);
}

Context read_metric(const std::string& path) {
  if (extension(path) != ".json") {
    return read_variables(path);
  }
  std::ifstream in = open_input(path);
  rapidjson::IStreamWrapper wrapper(in);
  rapidjson::StringBuffer text;
  WithoutStrings::Writer writer(text);
  WithoutStrings filter(writer);
  rapidjson::Reader reader;
  if (!reader.Parse<rapidjson::kParseNanAndInfFlag | rapidjson::kParseFullPrecisionFlag>(wrapper,
                                                                                        filter)) {
    return read_variables(path);  // which says what is wrong
  }
  std::istringstream numbers(text.GetString());
  return std::make_shared<stan::json::json_data>(numbers);
}

Contexts read_each(Context (*read)(const std::string& path), const std::string& path, int count,
                   int first) {
  if (count == 1) {
    return {read(path)};
  }
  std::vector<std::string> files = split(path, ',');
  if (files.size() > 1 && static_cast<int>(files.size()) != count) {
    throw std::invalid_argument("Expected one file or " + std::to_string(count)
                                + " files separated by commas, found "
                                + std::to_string(files.size()) + ": " + path);
  }
  if (files.size() <= 1) {
    files = numbered(path, "", "", count, first);
    if (path.empty() || !exists(files.front())) {
      return Contexts(count, read(path));
    }
  }
  Contexts contexts;
  for (const std::string& file : files) {
    contexts.push_back(read(file));
  }
  return contexts;
}

size_t Table::offset() const {
  size_t n = 0;
  while (n < names.size() && names[n].size() > 2
         && names[n].compare(names[n].size() - 2, 2, "__") == 0) {
    ++n;
  }
  return n;
}

Table read_csv(const std::string& path) {
  Table table;
  std::ifstream in = open_input(path);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') {
      table.comments.push_back(line);
    } else if (table.names.empty()) {
      table.names = split(line, ',');
    } else {
      table.rows.push_back(read_row(line, path));
      if (table.rows.back().size() != table.names.size()) {
        throw std::invalid_argument(
            "Error parsing CSV file \"" + path + "\", expected "
            + std::to_string(table.names.size()) + " columns, found "
            + std::to_string(table.rows.back().size()));
      }
    }
  }
  if (table.names.empty()) {
    throw std::invalid_argument("Error parsing CSV file \"" + path + "\", no header row");
  }
  return table;
}

}  // namespace engine
