#ifndef ENGINE_ARGUMENTS_HPP
#define ENGINE_ARGUMENTS_HPP

// The command line as a tree. A node is a group of arguments (`adapt`), a choice between groups
// (`metric=diag_e`) or a value (`delta=0.9`). The tree is data: grammar.cpp writes it down once,
// with names, defaults and bounds, and everything else (parsing, validation, the header of the CSV,
// the JSON config, help) walks it.

#include <iosfwd>
#include <limits>
#include <string>
#include <variant>
#include <vector>

namespace engine {

using Value = std::variant<bool, long long, double, std::string>;

/** The values a number may take, and how to say so. */
struct Bounds {
  double lower = -std::numeric_limits<double>::infinity();
  double upper = std::numeric_limits<double>::infinity();
  bool open = false;           // lower and upper themselves are excluded
  std::string words = "All";   // what a user is told
};

struct Argument {
  enum class Kind { group, choice, flag, value };  // a flag is a group without a line of its own

  Kind kind = Kind::group;
  std::string name;
  std::string description;
  std::vector<Argument> children;  // of a group: its arguments; of a choice: its alternatives
  size_t chosen = 0;               // of a choice
  size_t usual = 0;                // of a choice: the default
  Value value;
  Value initial;  // the default value
  Bounds bounds;
  std::string initial_words;  // the default as help describes it, when it is not `initial`

  /** The node at a path such as `sample/adapt/delta`, counted from here; a choice passes through. */
  const Argument& at(const std::string& path) const;
  Argument& at(const std::string& path);

  bool truth(const std::string& path) const;
  int integer(const std::string& path) const;
  double real(const std::string& path) const;
  std::string text(const std::string& path) const;
  /** The name of the alternative chosen at `path`. */
  std::string choice(const std::string& path) const;

  bool is_default() const;
  /** Give a value that stands for the default (a generated seed), and is shown as such. */
  void set_default(Value generated);

  /** One `name = value` line per node, indented by depth, as the header of every CSV has it. */
  void print(std::ostream& out, const std::string& prefix, int depth = 0) const;
  void print_json(std::ostream& out, int depth) const;
  void print_help(std::ostream& out, int depth, bool recurse) const;
};

enum class Parsed { run, help, info, error };

/** Read the command line into `root`; complaints and help go to `out`. */
Parsed parse(Argument& root, const std::vector<std::string>& words, const std::string& program,
             std::ostream& out);

/** A string as JSON writes it. */
std::string quoted(const std::string& text);

}  // namespace engine

#endif
