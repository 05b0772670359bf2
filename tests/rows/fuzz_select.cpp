// Fuzz of the selection on its own, without XLA, for one instruction set (as select.cpp is compiled):
//
//     fuzz [cases] [seed]
//
// A case draws queries and items of whole numbers, whose products are exact and often equal, and what is closed in each
// way; selects on pools of several kinds, which must agree bit for bit; and compares with a plain sort. Every array ends
// where it should, so that the address sanitizer sees a read beyond. The first case that fails ends the run and names the
// seed that draws it again.

#include "select.cpp"

#include "fuzzing.hpp"

#include <cmath>
#include <tuple>

namespace jals {
namespace {

template <class T>
struct Chosen {
  std::vector<int32_t> item;
  std::vector<T> best;
  bool operator==(const Chosen& other) const {
    return item == other.item && !std::memcmp(best.data(), other.best.data(), best.size() * sizeof(T));
  }
};

template <class T>
class Case : private Draws {
 public:
  explicit Case(uint64_t seed) : Draws(seed) {
    queries_ = chance(0.1) ? whole(90, 300) : whole(1, 30);
    rank_ = whole(1, chance(0.1) ? 70 : 9);
    items_ = chance(0.2) ? whole(1, 5) : whole(1, chance(0.1) ? 3000 : 400);
    k_ = chance(0.15) ? items_ : chance(0.3) ? 1 : whole(1, chance(0.5) ? std::min<int64_t>(items_, 12) : items_);
    draw_numbers();
    draw_closed();
  }

  // Why the case fails; "" where it passes.
  std::string check() {
    const Chosen<T> one = select_on(Threads{1});
    for (int64_t threads : {2, 5})
      if (!(select_on(Threads{threads}) == one)) return std::to_string(threads) + " threads do not agree with one";
    if (!(select_on(Busy{}) == one)) return "a pool whose tasks never start does not agree";
    if (std::string why = compare(one); !why.empty()) return why;
    return check_damaged();
  }

  std::string describe() const {
    std::string text = std::string(sizeof(T) == 4 ? "float" : "double") + ", " + std::to_string(queries_) + " queries, ";
    text += std::to_string(items_) + " items, rank " + std::to_string(rank_) + ", k " + std::to_string(k_);
    auto add = [&](bool there, const char* name) { text += there ? std::string(", ") + name : ""; };
    add(!offset_.empty(), "offset"), add(!mask_.empty(), "mask"), add(!start_.empty(), "pairs");
    return text;
  }

 private:
  void draw_numbers() {
    constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    constexpr T few[] = {nan, -nan, inf, -inf, T(-0.0), T(0), nan};
    const double odd = chance(0.3) ? 0.05 : 0.001;
    const int kind = int(whole(0, 3));
    const int64_t most = kind == 0 ? 1 : 9;
    auto number = [&] { return chance(odd) ? any_of(few) : T(whole(-most, most)); };
    query_.resize(queries_ * rank_);
    table_.resize(items_ * rank_);
    for (T& each : query_) each = number();
    for (T& each : table_) each = number();
    for (int64_t i = 0; i < items_ && kind > 1; ++i) table_[i * rank_] = T(kind == 2 ? i : -i);  // each the best so far
    for (int64_t q = 0; q < queries_; ++q)
      if (chance(0.1)) std::fill_n(&query_[q * rank_], rank_, T(0));  // all are equal
    if (chance(0.4))
      for (int64_t i = 0; i < items_; ++i) offset_.push_back(number());
  }

  void draw_closed() {
    closed_.resize(queries_ * items_);
    const double share = any_of(std::vector<double>{0.01, 0.3, 0.9, 1});
    if (chance(0.5)) {
      for (int64_t i = 0; i < queries_ * items_; ++i) mask_.push_back(char(chance(share)));
      closed_ = mask_;
    }
    if (chance(0.3)) return;
    for (int64_t q = 0; q < queries_; ++q) {
      if (chance(0.2)) pair_.push_back(int32_t(whole(0, items_ - 1)));  // nobody's
      start_.push_back(int32_t(pair_.size()));
      const double mine = chance(0.2) ? 1 : chance(0.2) ? 0 : share;
      for (int64_t i = 0; i < items_; ++i)
        if (chance(mine)) {
          pair_.push_back(int32_t(i));
          closed_[q * items_ + i] = 1;
        }
      stop_.push_back(int32_t(pair_.size()));
    }
  }

  template <class Pool>
  Chosen<T> select_on(Pool&& pool) const {
    Chosen<T> chosen{std::vector<int32_t>(queries_ * k_, 7), std::vector<T>(queries_ * k_, T(7))};
    Selection<T> all{};
    all.queries = queries_, all.items = items_, all.rank = rank_, all.k = k_, all.pairs = pair_.size();
    all.query = query_.data(), all.table = table_.data();
    all.offset = offset_.empty() ? nullptr : offset_.data();
    all.mask = mask_.empty() ? nullptr : reinterpret_cast<const bool*>(mask_.data());
    if (!start_.empty()) all.start = start_.data(), all.stop = stop_.data(), all.closed = pair_.data();
    all.item = chosen.item.data(), all.best = chosen.best.data();
    select_all(all, JALS_ISA::make_select<T>(), pool);
    return chosen;
  }

  T score_of(int64_t q, int64_t item) const {
    T sum = 0;
    for (int64_t r = 0; r < rank_; ++r) sum += query_[q * rank_ + r] * table_[item * rank_ + r];
    return offset_.empty() ? sum : sum + offset_[item];
  }

  std::string compare(const Chosen<T>& chosen) const {
    for (int64_t q = 0; q < queries_; ++q) {
      std::vector<std::pair<T, int32_t>> open;  // (minus the score, item)
      for (int64_t i = 0; i < items_; ++i) {
        const T score = score_of(q, i);
        if (!closed_[q * items_ + i] && score > -std::numeric_limits<T>::infinity()) open.push_back({-score, int32_t(i)});
      }
      std::sort(open.begin(), open.end());
      for (int64_t place = 0; place < k_; ++place) {
        const bool there = place < int64_t(open.size());
        const int32_t item = there ? open[place].second : -1;
        const T best = there ? -open[place].first : -std::numeric_limits<T>::infinity();
        const int64_t at = q * k_ + place;
        if (chosen.item[at] != item || chosen.best[at] != best)
          return "query " + std::to_string(q) + " has item " + std::to_string(chosen.item[at]) + " at place " +
                 std::to_string(place) + ", not " + std::to_string(item);
      }
    }
    return "";
  }

  // With numbers that are none, whatever comes is of the items, and nothing outside is touched.
  std::string check_damaged() {
    if (start_.empty()) return "";
    constexpr int32_t far[] = {-1, -7, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
    for (auto* numbers : {&start_, &stop_, &pair_})
      if (!numbers->empty() && chance(0.5)) (*numbers)[whole(0, int64_t(numbers->size()) - 1)] = any_of(far);
    for (int32_t item : select_on(Threads{2}).item)
      if (item < -1 || item >= items_) return "there is no item " + std::to_string(item);
    return "";
  }

  int64_t queries_, items_, rank_, k_;
  std::vector<T> query_, table_, offset_;
  std::vector<char> mask_, closed_;  // closed_: in any way
  std::vector<int32_t> start_, stop_, pair_;
};

}  // namespace
}  // namespace jals

int main(int count, char** words) { return jals::fuzz<jals::Case>(count, words); }
