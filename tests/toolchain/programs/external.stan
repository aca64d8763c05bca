// No parameters, a function defined in C++, and random numbers.
functions {
  real twice(real x);
}
data {
  real x;
}
generated quantities {
  real doubled = twice(x);
  real noise = normal_rng(doubled, 1);
}
