constexpr double factor = 2;
