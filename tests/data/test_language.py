from mmolre.data.language import detect


def test_languages():
    english = "I think that this is the best film of the year and you have to see it with all of your friends"
    german = "Ich denke dass das der beste Film ist und wir haben ihn auch mit den Kindern nicht für den Preis gesehen"
    french = "Je pense que c'est le meilleur film et nous avons vu les images dans une salle avec des amis pour rire"
    assert [detect(t) for t in (english, german, french, "Москва слезам не верит", "これは本です", "short text")] == [
        *("en", "de", "fr", "ru", "ja", None)
    ]
    assert detect("123 !?") is None
