// A part's entries, a chunk at a time: read from their slots, weighed, and their rows of the table gathered.
#pragma once

#include "room.cuh"

namespace jals {
namespace cuda {

template <class T>
struct Slot {
  bool there;
  int other;
  T value, weight;
};

// total -= term, with what rounding loses added to `lost`: jals/model/factors.py, `remainder`.
template <class T>
DEVICE void take_off(T& total, T& lost, T term) {
  const T now = total - term, part = now - total;
  lost += (total - (now - part)) - (term + part);
  total = now;
}

// An entry's loss, `left` being its target less its score.
template <class T>
DEVICE T loss_of(T w, T t, T q, T left) {
  return w * left * left + q * (1 - 2 * (t - left));
}

// Warp 0 reads a part's slots and puts them into chunks. What the others need not know lies in shared memory, so that no
// registers are held for it; so do the sums of their losses, each for a lane of warp 0 or for a warp.
template <class Sums>
class Entries {
  using T = typename Sums::Number;

 public:
  DEVICE Entries(const Work<T>& work, const Room<Sums>& room) : work_(work), room_(room) {
    if (!warp()) room.losses()[lane()] = 0;
  }

  DEVICE bool more() const { return at_ < room_.part()->pieces * room_.part()->slots; }
  // Of the entries added, this thread's share.
  DEVICE double loss() const { return warp() ? 0.0 : room_.losses()[lane()]; }

  // Adds the loss of a chunk's entries at the row's start. (That at 0 is added where they are read.)
  DEVICE void add_loss_at_start(const Chunk<T>& chunk) {
    const T* start = work_.side.start + int64_t(room_.part()->row) * room_.k;
    for (int e = warp(); e < *chunk.count; e += threads() / kWarp) {
      T score = 0;
      for (int c = lane(); c < room_.k; c += kWarp) score += chunk.z[e * room_.stride() + c] * start[c];
      score = warp_sum(score);
      if (lane() == 0) room_.losses()[warp()] += loss_of(chunk.w[e], chunk.t[e], chunk.q[e], chunk.gap[e] - score);
    }
  }

  // Warp 0 reads the slots of the next chunk.
  DEVICE void read() {
    const Part& part = *room_.part();
    const int slot = at_ + anew(lane());
    at_ += work_.chunk;
    next_.there = false;
    if (warp() || lane() >= work_.chunk || slot >= part.pieces * part.slots) return;
    const Piecework<T>& bucket = work_.bucket[part.bucket];
    const int number = slot / part.slots;
    const int64_t piece = part.slab + (bucket.order ? bucket.order[part.slab + part.first + number] : part.first);
    const int64_t place = piece * bucket.width + part.from + slot % part.slots;
    next_.there = bucket.entry[place] < work_.side.num_entries;
    next_.other = bucket.other[place];
    next_.value = value_of(bucket, place);
    next_.weight = bucket.weight ? bucket.weight[place] : T(1);
  }

  DEVICE T value_of(const Bucket<T>& bucket, int64_t place) const {
    if (bucket.value_bytes == sizeof(T)) return static_cast<const T*>(bucket.value)[place];
    const int code = bucket.value_bytes == 1 ? static_cast<const uint8_t*>(bucket.value)[place]
                                             : static_cast<const uint16_t*>(bucket.value)[place];
    return work_.entry[5] + work_.entry[6] * T(code);
  }

  // Warp 0 puts what it has read into a chunk, without the padding. An entry whose row of the table is not there makes
  // its row NaN.
  DEVICE void put(const Chunk<T>& chunk) {
    if (warp()) return;
    const unsigned there = __ballot_sync(kAll, next_.there);
    const int at = __popc(there & ((1u << lane()) - 1)), count = __popc(there);
    if (lane() == 0) *chunk.count = count;
    if (lane() >= count) chunk.w[lane()] = chunk.p[lane()] = T(0), chunk.other[lane()] = -1;
    if (!next_.there) return;
    const Operands<T>& side = work_.side;
    const T* entry = work_.entry;
    const bool readable = next_.other >= 0 && next_.other < side.others;
    T w = next_.weight * (entry[0] + entry[1] * next_.value), t = entry[2] + entry[3] * next_.value;
    T q = next_.weight * entry[4], gap = t, lost = 0;
    take_off(gap, lost, *work_.mean);
    if (side.held_bias && readable) take_off(gap, lost, side.held_bias[next_.other]);
    gap += lost;
    if (!readable) w = q = not_a_number<T>();
    if (side.value && !side.start) room_.losses()[lane()] += loss_of(w, t, q, gap);
    chunk.other[at] = readable ? next_.other : -1;
    chunk.w[at] = w, chunk.p[at] = w * gap + q, chunk.gap[at] = gap, chunk.t[at] = t, chunk.q[at] = q;
  }

 private:
  const Work<T>& work_;
  const Room<Sums>& room_;
  int at_ = 0;
  Slot<T> next_;
};

// The columns that do not depend on the entries: a bias's ones, and zeros.
template <class Sums, class T>
DEVICE void fill_columns(const Work<T>& work, const Room<Sums>& room, const Chunk<T>& chunk) {
  const int rank = static_cast<int>(work.side.rank), rest = room.n - rank;
  for (int i = thread(); i < work.chunk * rest; i += threads())
    chunk.z[i / rest * room.stride() + rank + i % rest] = T(work.side.held_bias && i % rest == 0);
}

// f(entry, its numbers' first) of those of a chunk that are this warp's: with what fills up, to a multiple of 8.
template <class Sums, class T, class F>
DEVICE void each_entry(const Work<T>& work, const Room<Sums>& room, const Chunk<T>& chunk, F&& f) {
  const int count = min(work.chunk, (*chunk.count + 7) / 8 * 8);
  for (int e = warp(); e < count; e += threads() / kWarp) f(e, chunk.z + e * room.stride());
}

// Where an entry's numbers in bfloat16 lie until they are widened: in the upper half of the place that they will take.
DEVICE Narrow* narrow_of(float* z, int rank) { return reinterpret_cast<Narrow*>(z) + rank; }

// Begins to gather a chunk's rows, a warp an entry; zeros where there is none.
template <int Bytes, class Sums, class T, class Number>
DEVICE void gather_by(const Work<T>& work, const Room<Sums>& room, const Chunk<T>& chunk, const Number* table) {
  constexpr int each = Bytes / sizeof(Number);
  const int rank = anew(static_cast<int>(work.side.rank));
  each_entry(work, room, chunk, [&](int e, T* z) {
    Number* to;
    if constexpr (sizeof(Number) == sizeof(T)) to = z;
    else to = narrow_of(z, rank);
    const int other = chunk.other[e];
    const Number* from = table + int64_t(other) * rank;
    for (int c = lane() * each; c < rank; c += kWarp * each) {
      if (other >= 0) copy_later<Bytes>(to + c, from + c);
      else UNROLLED for (int i = 0; i < each; ++i) to[c + i] = Number(0);
    }
  });
  copies_begun();
}

template <class Sums, class T>
DEVICE void gather(const Work<T>& work, const Room<Sums>& room, const Chunk<T>& chunk) {
  const int rank = static_cast<int>(work.side.rank);
  if constexpr (sizeof(T) == sizeof(float))
    if (work.side.narrow) {
      if (rank % 8 == 0) gather_by<16>(work, room, chunk, work.side.narrow);
      else if (rank % 2 == 0) gather_by<4>(work, room, chunk, work.side.narrow);
      else gather_by<2>(work, room, chunk, work.side.narrow);
      return;
    }
  if (rank * sizeof(T) % 16 == 0) gather_by<16>(work, room, chunk, work.side.table);
  else gather_by<sizeof(T)>(work, room, chunk, work.side.table);
}

// Widens what has been gathered in bfloat16, each warp what it has gathered. Number c lands on numbers up to c, which have
// been read by then: a warp reads 32 of them before it writes.
template <class Sums, class T>
DEVICE void widen(const Work<T>& work, const Room<Sums>& room, const Chunk<T>& chunk) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (!work.side.narrow) return;
    const int rank = anew(static_cast<int>(work.side.rank));
    __syncwarp();  // what other lanes have copied is there
    each_entry(work, room, chunk, [&](int, T* z) {
      for (int first = 0; first < rank; first += kWarp) {
        const int c = first + lane();
        const Narrow number = c < rank ? narrow_of(z, rank)[c] : 0;
        __syncwarp();
        if (c < rank) z[c] = widened(number);
        __syncwarp();
      }
    });
  }
}

// Adds the entries of the room's part to `sums` (gram.cuh, tensor.cuh), chunk after chunk: while one is added, the next comes.
// Returns this thread's share of their loss at the row's start, or at 0.
template <class Sums, class T>
DEVICE double add_entries(const Work<T>& work, const Room<Sums>& room, Sums& sums) {
  constexpr int Later = Sums::kBuffers - 1;
  Entries<Sums> entries(work, room);
  bool coming = true;  // whether a chunk has been read that is not put yet
  auto put = [&](int b) {
    const Chunk<T> chunk = room.chunk(b);
    entries.put(chunk);
    __syncthreads();
    gather(work, room, chunk);
    coming = entries.more();
    if (coming) entries.read();
  };
  for (int b = 0; b < Sums::kBuffers; ++b) fill_columns(work, room, room.chunk(b));
  entries.read();
  if (Later) put(0);
  for (int now = 0;; now ^= Later) {
    const bool last = Later && !coming;
    if (!last) put(now ^ Later);
    if (last) copies_arrive<0>();
    else copies_arrive<Later>();
    const Chunk<T> chunk = room.chunk(now);
    widen(work, room, chunk);
    __syncthreads();
    if (*chunk.count) {
      sums.add(work, room, chunk);
      if (work.side.value && work.side.start) entries.add_loss_at_start(chunk);
    }
    __syncthreads();
    if (Later ? last : !coming) break;
  }
  return entries.loss();
}

}  // namespace cuda
}  // namespace jals
