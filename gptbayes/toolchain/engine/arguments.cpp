#include "arguments.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace engine {
namespace {

using Kind = Argument::Kind;

const Argument* find_child(const Argument& node, const std::string& name) {
  auto it = std::find_if(node.children.begin(), node.children.end(),
                         [&](const Argument& child) { return child.name == name; });
  return it == node.children.end() ? nullptr : &*it;
}

std::string shown(const Value& value) {
  std::ostringstream out;
  out << std::boolalpha;
  std::visit([&](const auto& v) { out << v; }, value);
  return out.str();
}

const char* type_of(const Argument& node) {
  static const char* const names[] = {"boolean", "int", "double", "string"};
  return node.kind == Kind::choice ? "list element" : names[node.value.index()];
}

std::string valid_values(const Argument& node) {
  if (node.kind != Kind::choice) {
    return node.bounds.words;
  }
  std::string names;
  for (const Argument& alternative : node.children) {
    names += (names.empty() ? "" : ", ") + alternative.name;
  }
  return names;
}

bool read_number(const std::string& word, double& number) {
  char* end = nullptr;
  number = std::strtod(word.c_str(), &end);
  return !word.empty() && !std::isspace(word[0]) && *end == '\0';
}

bool read_number(const std::string& word, long long& number) {
  char* end = nullptr;
  errno = 0;
  number = std::strtoll(word.c_str(), &end, 10);
  return !word.empty() && !std::isspace(word[0]) && *end == '\0' && errno == 0;
}

bool within(const Bounds& bounds, double x) {
  return bounds.open ? bounds.lower < x && x < bounds.upper
                     : bounds.lower <= x && x <= bounds.upper;
}

/** Reads a word as a value of the type the node already holds; false if it is none or forbidden. */
bool assign(Argument& node, const std::string& word) {
  if (std::holds_alternative<bool>(node.value)) {
    const bool yes = word == "1" || word == "true";
    node.value = yes;
    return yes || word == "0" || word == "false";
  }
  if (std::holds_alternative<std::string>(node.value)) {
    node.value = word;  // bounds concern `init`, a number or a path: a path is free
    double number;
    return node.bounds.lower == node.bounds.upper || !read_number(word, number)
           || within(node.bounds, number);
  }
  if (std::holds_alternative<long long>(node.value)) {
    long long number;
    if (!read_number(word, number) || !within(node.bounds, static_cast<double>(number))) {
      return false;
    }
    node.value = number;
    return true;
  }
  double number;
  if (!read_number(word, number) || !within(node.bounds, number)) {
    return false;
  }
  node.value = number;
  return true;
}

/** The command line being read: a cursor over words, shared by the whole descent. */
struct Reader {
  const std::vector<std::string>& words;
  std::ostream& out;
  size_t next = 0;
  bool help = false;

  bool done() const { return help || next == words.size(); }

  /** Reads the arguments of a group until a word that is not one of them: the caller climbs up. */
  bool read_group(Argument& group);
  bool read_child(Argument& child, bool has_value, const std::string& value);
  bool refuse(const Argument& node, const std::string& value);
  bool help_asked(const Argument& node);
};

bool Reader::read_group(Argument& group) {
  while (!done()) {
    if (help_asked(group)) {
      return true;
    }
    const std::string& word = words[next];
    const size_t equals = word.find('=');
    auto* child = const_cast<Argument*>(find_child(group, word.substr(0, equals)));
    if (child == nullptr) {
      return true;
    }
    const bool has_value = equals != std::string::npos;
    if (has_value == (child->kind == Kind::group)) {
      return true;
    }
    ++next;
    if (!read_child(*child, has_value, has_value ? word.substr(equals + 1) : "")) {
      return false;
    }
  }
  return true;
}

bool Reader::read_child(Argument& child, bool has_value, const std::string& value) {
  if (child.kind == Kind::group) {
    return read_group(child);
  }
  if (!has_value && !done() && help_asked(child)) {
    return true;
  }
  if (child.kind == Kind::value) {
    return assign(child, value) || refuse(child, value);
  }
  const Argument* alternative = find_child(child, value);
  if (alternative == nullptr) {
    return refuse(child, value);
  }
  child.chosen = static_cast<size_t>(alternative - child.children.data());
  return read_group(child.children[child.chosen]);
}

bool Reader::refuse(const Argument& node, const std::string& value) {
  out << value << " is not a valid value for \"" << node.name << "\"\n"
      << "  Valid values: " << valid_values(node) << "\n";
  return false;
}

bool Reader::help_asked(const Argument& node) {
  const std::string& word = words[next];
  if (word != "help" && word != "help-all") {
    return false;
  }
  node.print_help(out, 0, word == "help-all");
  help = true;
  return true;
}

void collect_paths(const Argument& node, const std::string& name, const std::string& prefix,
                   std::vector<std::string>& paths) {
  std::string own = prefix + node.name;
  if (node.kind == Kind::value || node.kind == Kind::choice) {
    if (node.name == name) {
      paths.push_back(own + "=<" + type_of(node) + ">");
    }
    own += "=";
  } else {
    if (node.name == name) {
      paths.push_back(own);
    }
    own += " ";
  }
  for (const Argument& child : node.children) {
    collect_paths(child, name, own, paths);
  }
}

void complain_misplaced(const Argument& root, const std::string& word, std::ostream& out) {
  out << word << " is either mistyped or misplaced.\n";
  std::vector<std::string> paths;
  for (const Argument& child : root.children) {
    collect_paths(child, word.substr(0, word.find('=')), "", paths);
  }
  if (!paths.empty()) {
    out << "Perhaps you meant one of the following valid configurations?\n";
    for (const std::string& path : paths) {
      out << "  " << path << "\n";
    }
  }
}

void print_usage(const Argument& root, const std::string& program, std::ostream& out) {
  auto line = [&](const std::string& name, const std::string& text) {
    out << "  " << std::left << std::setw(20) << name << "  " << text << "\n";
  };
  out << "Usage: " << program << " <method> [<argument>=<value> | <group> <argument>=<value> ...]\n"
      << "\nMethods:\n";
  for (const Argument& method : root.at("method").children) {
    line(method.name, method.description);
  }
  out << "\nArguments of every method:\n";
  for (const Argument& argument : root.children) {
    if (argument.name != "method") {
      line(argument.name, argument.description);
    }
  }
  out << "\nInformation:\n";
  line("help", "Print this help");
  line("help-all", "Print every argument there is");
  line("info", "Print the Stan version and the flags this program was compiled with");
  out << "\nWrite help or help-all after any argument to read about it: " << program
      << " sample help\n";
}

}  // namespace

const Argument& Argument::at(const std::string& path) const {
  const size_t slash = path.find('/');
  const std::string head = path.substr(0, slash);
  const Argument* child
      = kind == Kind::choice
            ? (children[chosen].name == head ? &children[chosen] : nullptr)
            : find_child(*this, head);
  if (child == nullptr) {
    throw std::logic_error("no argument \"" + head + "\" under \"" + name + "\"");
  }
  return slash == std::string::npos ? *child : child->at(path.substr(slash + 1));
}

Argument& Argument::at(const std::string& path) {
  return const_cast<Argument&>(static_cast<const Argument&>(*this).at(path));
}

bool Argument::truth(const std::string& path) const { return std::get<bool>(at(path).value); }

int Argument::integer(const std::string& path) const {
  return static_cast<int>(std::get<long long>(at(path).value));
}

double Argument::real(const std::string& path) const { return std::get<double>(at(path).value); }

std::string Argument::text(const std::string& path) const {
  return std::get<std::string>(at(path).value);
}

std::string Argument::choice(const std::string& path) const {
  const Argument& node = at(path);
  return node.children[node.chosen].name;
}

bool Argument::is_default() const {
  return kind == Kind::choice ? chosen == usual : value == initial;
}

void Argument::set_default(Value generated) { value = initial = std::move(generated); }

void Argument::print(std::ostream& out, const std::string& prefix, int depth) const {
  const std::string start = prefix + std::string(2 * depth, ' ') + name;
  if (kind == Kind::group) {
    out << start << "\n";
    for (const Argument& child : children) {
      child.print(out, prefix, depth + 1);
    }
  } else if (kind == Kind::choice) {
    out << start << " = " << children[chosen].name << (is_default() ? " (Default)" : "") << "\n";
    children[chosen].print(out, prefix, depth + 1);
  } else if (kind == Kind::value) {
    out << start << " = " << shown(value) << (is_default() ? " (Default)" : "") << "\n";
  }
}

void Argument::print_json(std::ostream& out, int depth) const {
  const std::string indent(2 * depth, ' ');
  out << indent << quoted(name) << " : ";
  if (kind == Kind::value) {
    const bool is_text = std::holds_alternative<std::string>(value);
    out << (is_text ? quoted(shown(value)) : shown(value));
    return;
  }
  out << "{\n";
  std::vector<const Argument*> inner;
  if (kind == Kind::choice) {
    const Argument& alternative = children[chosen];
    out << indent << "  \"value\" : " << quoted(alternative.name);
    if (alternative.kind == Kind::group) {
      out << ",\n";
      inner.push_back(&alternative);
    }
  } else {
    for (const Argument& child : children) {
      inner.push_back(&child);
    }
  }
  for (const Argument* node : inner) {
    node->print_json(out, depth + 1);
    out << (node == inner.back() ? "" : ",\n");
  }
  out << "\n" << indent << "}";
}

void Argument::print_help(std::ostream& out, int depth, bool recurse) const {
  const std::string indent(2 * depth, ' ');
  if (kind == Kind::group || kind == Kind::flag) {
    out << indent << name << "\n" << indent << "  " << description << "\n";
    if (!children.empty()) {
      out << indent << "  Valid subarguments:";
      for (const Argument& child : children) {
        out << (&child == &children.front() ? " " : ", ") << child.name;
      }
      out << "\n";
    }
  } else {
    const std::string usual_value
        = kind == Kind::choice ? children[usual].name : shown(initial);
    out << indent << name << "=<" << type_of(*this) << ">\n"
        << indent << "  " << description << "\n"
        << indent << "  Valid values: " << valid_values(*this) << "\n"
        << indent << "  Defaults to "
        << (initial_words.empty() ? usual_value : initial_words) << "\n";
  }
  out << "\n";
  if (recurse) {
    for (const Argument& child : children) {
      child.print_help(out, depth + 1, true);
    }
  }
}

Parsed parse(Argument& root, const std::vector<std::string>& words, const std::string& program,
             std::ostream& out) {
  if (words.empty()) {
    print_usage(root, program, out);
    return Parsed::error;
  }
  Argument rest = root;  // what may still come: every argument of the top level is given once
  bool method_given = false;
  Reader reader{words, out};
  while (!reader.done()) {
    std::string word = words[reader.next];
    if (word == "info") {
      return Parsed::info;
    }
    if (word == "help") {
      print_usage(root, program, out);
      return Parsed::help;
    }
    if (!method_given && find_child(root.at("method"), word) != nullptr) {
      word = "method=" + word;  // the method's bare name will do
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const bool has_value = equals != std::string::npos;
    auto found = std::find_if(rest.children.begin(), rest.children.end(),
                              [&](const Argument& child) { return child.name == name; });
    if (word != "help-all"
        && (found == rest.children.end() || has_value == (found->kind == Kind::group))) {
      complain_misplaced(root, word, out);
      return Parsed::error;
    }
    if (reader.help_asked(root)) {
      return Parsed::help;
    }
    ++reader.next;
    if (!reader.read_child(root.at(name), has_value, has_value ? word.substr(equals + 1) : "")) {
      return Parsed::error;
    }
    method_given = method_given || name == "method";
    rest.children.erase(found);
  }
  if (reader.help) {
    return Parsed::help;
  }
  if (!method_given) {
    out << "A method must be specified!\n";
    return Parsed::error;
  }
  return Parsed::run;
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out << '\\' << c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out << "\\u" << std::hex << std::setw(4) << std::setfill('0') << int(c) << std::dec;
    } else {
      out << c;
    }
  }
  out << '"';
  return out.str();
}

}  // namespace engine
