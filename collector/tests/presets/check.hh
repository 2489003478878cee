// What the arguments of a function are, at compile time. Numbers count from 1, as the shim counts: integers and
// pointers only, for those are what the general registers hold.
#include <type_traits>

enum Kind { NONE, FUNCTION, POINTER, INTEGER, FLOATING, WIDE };

template <class T> constexpr Kind kind_of()
{
    if constexpr (std::is_floating_point_v<T>)
        return FLOATING;
    else if constexpr (std::is_same_v<T, void *>)
        return POINTER;
    else if constexpr (std::is_pointer_v<T>)
        return std::is_function_v<std::remove_pointer_t<T>> ? FUNCTION : POINTER;
    else
        return std::is_scalar_v<T> || std::is_reference_v<T> ? INTEGER : WIDE;
}

template <int size> struct Kinds {
    Kind kinds[size + 1];
    bool variadic;

    constexpr Kind at(int number) const
    {
        for (Kind kind : kinds)
            if (kind != FLOATING && --number == 0)
                return kind;
        return NONE;
    }
    constexpr int count(Kind wanted) const
    {
        int count = 0;
        for (Kind kind : kinds)
            count += kind == wanted;
        return count;
    }
};

template <class R, class... A> constexpr Kinds<sizeof...(A)> arguments(R (*)(A...))
{
    return {{kind_of<A>()..., NONE}, false};
}
template <class R, class... A> constexpr Kinds<sizeof...(A)> arguments(R (*)(A..., ...))
{
    return {{kind_of<A>()..., NONE}, true};
}
