defmodule Rustler.JSON do
  # A JSON decoder, just large enough for the messages of Cargo: OTP has one only since version
  # 27. It trusts its input to be valid JSON.
  @moduledoc false

  @spec decode!(binary()) :: term()
  def decode!(text) do
    {value, rest} = value(skip(text))
    "" = skip(rest)
    value
  end

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("\"" <> rest), do: string(rest, [])
  defp value("[" <> rest), do: rest |> skip() |> array([])
  defp value("{" <> rest), do: rest |> skip() |> object([])
  defp value(text), do: number(text)

  defp array("]" <> rest, values), do: {Enum.reverse(values), rest}
  defp array("," <> rest, values), do: rest |> skip() |> array(values)

  defp array(text, values) do
    {value, rest} = value(text)
    rest |> skip() |> array([value | values])
  end

  defp object("}" <> rest, pairs), do: {Map.new(pairs), rest}
  defp object("," <> rest, pairs), do: rest |> skip() |> object(pairs)

  defp object("\"" <> rest, pairs) do
    {key, rest} = string(rest, [])
    ":" <> rest = skip(rest)
    {value, rest} = rest |> skip() |> value()
    rest |> skip() |> object([{key, value} | pairs])
  end

  defp number(text) do
    case Float.parse(text) do
      {float, rest} ->
        token = binary_part(text, 0, byte_size(text) - byte_size(rest))
        {integer_or(token, float), rest}

      :error ->
        raise ArgumentError, "not JSON: #{inspect(text)}"
    end
  end

  defp integer_or(token, float) do
    case Integer.parse(token) do
      {integer, ""} -> integer
      _fraction -> float
    end
  end

  # Collects stretches between escapes as they are.
  defp string("\"" <> rest, parts), do: {parts |> Enum.reverse() |> IO.iodata_to_binary(), rest}

  defp string("\\u" <> <<hex::binary-size(4), rest::binary>>, parts) do
    {character, rest} = unicode(String.to_integer(hex, 16), rest)
    string(rest, [<<character::utf8>> | parts])
  end

  defp string(<<?\\, character, rest::binary>>, parts),
    do: string(rest, [unescape(character) | parts])

  defp string(text, parts) do
    {at, _length} = :binary.match(text, ["\"", "\\"])
    rest = binary_part(text, at, byte_size(text) - at)
    string(rest, [binary_part(text, 0, at) | parts])
  end

  # Characters beyond 16 bits are written as a pair of surrogates.
  defp unicode(high, <<"\\u", hex::binary-size(4), rest::binary>>) when high in 0xD800..0xDBFF do
    low = String.to_integer(hex, 16)
    {0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00), rest}
  end

  defp unicode(character, rest), do: {character, rest}

  defp unescape(?n), do: "\n"
  defp unescape(?t), do: "\t"
  defp unescape(?r), do: "\r"
  defp unescape(?b), do: "\b"
  defp unescape(?f), do: "\f"
  defp unescape(character), do: <<character>>

  defp skip(<<character, rest::binary>>) when character in [?\s, ?\t, ?\r, ?\n], do: skip(rest)
  defp skip(text), do: text
end
