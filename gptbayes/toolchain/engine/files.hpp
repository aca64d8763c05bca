#ifndef ENGINE_FILES_HPP
#define ENGINE_FILES_HPP

// Files: where they are, how they are opened, what is read from them.

#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace stan {
namespace io {
class var_context;
}
}  // namespace stan

namespace engine {

using Context = std::shared_ptr<stan::io::var_context>;
using Contexts = std::vector<Context>;

/**
 * An output file whose rows are whole at any moment: a row goes to the system in one piece when its
 * line ends, so that a process stopped by a signal leaves a CSV that ends with a complete row.
 */
class RowFile : public std::ofstream {
 public:
  RowFile(const std::string& path, int sig_figs);
  ~RowFile();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::vector<char> buffer_;
};

std::unique_ptr<RowFile> open_output(const std::string& path, int sig_figs);

/** `draws.csv` -> `draws`, the extension too if wanted. */
std::string stem(const std::string& path);
std::string extension(const std::string& path);

/**
 * `draws.csv` -> `draws_path_1.csv`: the tag, then the number if there are several files.
 *
 * @param count how many files
 * @param first number of the first one
 */
std::vector<std::string> numbered(const std::string& path, const std::string& tag,
                                  const std::string& default_extension, int count, int first);

/** The variables of a JSON (or R dump) file; none for an empty path. */
Context read_variables(const std::string& path);

/** The same, but a metric saved by the sampler says in words of which type it is: pass over that. */
Context read_metric(const std::string& path);

/**
 * One file for each chain: from a comma-separated list, from `name_<id>.json` and so on if they
 * exist, else the same for every chain.
 */
Contexts read_each(Context (*read)(const std::string& path), const std::string& path, int count,
                   int first);

/** A Stan CSV: its comments, the names of its columns and its rows. */
struct Table {
  std::vector<std::string> comments;
  std::vector<std::string> names;
  std::vector<std::vector<double>> rows;
  /** Number of leading columns that belong to the algorithm (their names end in `__`). */
  size_t offset() const;
};

Table read_csv(const std::string& path);

}  // namespace engine

#endif
